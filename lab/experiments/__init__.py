"""The paper's experiments at the size of one GPU: a folder each, with a config.toml and a command."""
