"""What exists: chips, models, prices, regions and grids, as sourced facts."""
