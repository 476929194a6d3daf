"""Keys, seals and signatures, behind one ring. It knows nothing of tables, stores or catalogs."""
