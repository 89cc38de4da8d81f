"""Who does the work: threads of this process or actors of a Ray cluster, and the parts that they have finished."""
