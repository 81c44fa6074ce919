"""What exists: chips, models, prices, regions and grids, as sourced facts.

Doors: `zoo.catalog.load` (records by name), `zoo.units` (quantities), `zoo.specs` (the records' types),
`zoo.yaml_source.read` (a user's files), `zoo.importers` (other people's formats). This file imports nothing, so that
asking for one door does not pay for the others.
"""
