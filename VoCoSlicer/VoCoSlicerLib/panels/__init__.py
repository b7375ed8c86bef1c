"""One widget class for each section of the module; each only binds controls to logic."""
