"""Image and mask pairs, classes, audit, the pre-scaled cache, the synthetic scenes. Imports no other room."""
