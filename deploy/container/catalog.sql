-- The archive's catalog lies beside Main, in a database of its own.
CREATE DATABASE archive;
