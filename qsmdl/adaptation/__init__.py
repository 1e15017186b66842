"""Test-time adaptation of trained networks with the physics as the loss."""
