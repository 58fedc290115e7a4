"""The hybrid model: the base executes, the thinking model decides when (Venhoff et al. 2510.07364)."""
