"""What all learners share: what moves their networks, what they refuse, evaluate and save; it knows no learner."""
