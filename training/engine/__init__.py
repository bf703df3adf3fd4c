"""How any training runs. It knows no task, no data set and no model."""
