"""What all of a phantom is drawn from and in: ranges, grids with smooth fields on them, solids, boxes and places in a mask."""
