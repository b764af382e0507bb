"""The networks, their normalization layers and their first weights, in torch. Specs: `search_spaces.models`."""
