"""How an artifact comes to be: what a function imports, the wheels of that, what of them is never loaded, and the zip."""
