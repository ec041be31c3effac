"""The paper's experiments at the size of one GPU: a folder each, with a config and a command. See lab/README.md."""
