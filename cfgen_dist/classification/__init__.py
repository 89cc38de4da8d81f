"""Do cell-type classifiers of held-out donors gain from generated cells? `run.classify` asks."""
