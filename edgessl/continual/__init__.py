"""Learning without forgetting: strategies inside the training step, and how they are measured."""
