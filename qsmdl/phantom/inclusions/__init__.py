"""What is laid over any phantom: lesions and vessels, sub-voxel exact."""
