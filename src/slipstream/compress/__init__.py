"""Makes weights smaller: calibration, one method per file in `passes`, and recipes of them."""
