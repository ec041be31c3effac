"""What is learned beside the model: a few numbers, each file made again by one command (`python -m lab.learn NAME`)."""
