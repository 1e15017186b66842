"""Networks: they know tensors only. `scaling.PpmAdapter` is the one place where ppm become network units."""
