"""Where versions of models lie, how a node comes by them, and the commands that publish them."""
