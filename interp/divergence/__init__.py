"""Where, in what, in which layer and why the decisions of two models part."""
