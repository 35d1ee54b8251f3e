"""What archscore is compared with: the best plain loop, and the toolkit of T-CET's authors."""
