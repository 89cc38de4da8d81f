"""What generated cells betray of the cells, and of the donors, that their model was trained on."""
