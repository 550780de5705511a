"""dspex's optimizers beside those of Optuna, cmaes, hyperopt, pymoo and DEAP."""
