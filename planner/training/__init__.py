"""Plans of training jobs: the best layout of a model on any number of any chips, where, and for how long."""
