"""Which table answers what? Each table of a run is made here, from arrays and documents alone."""
