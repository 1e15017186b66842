"""What tissues are: tables of susceptibility, relaxation and proton density, blood, other field strengths, maps and two tissues in one voxel."""
