"""Postgres behind small doors: links, transactions, shapes of tables, named statements. It knows no tier's role."""
