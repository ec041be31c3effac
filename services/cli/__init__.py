"""`shiori`: what an operator does from a shell. Imports: cli → inference/client, vault/keys."""
