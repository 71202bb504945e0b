"""What others owe us: protocols, each with its contract in prose. Naming one makes Python check the verbs; ducks fit too."""
