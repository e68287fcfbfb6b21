"""Everything that needs gradients, on torch: imported by the passes that train, when they run."""
