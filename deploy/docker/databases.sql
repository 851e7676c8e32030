-- Beside booking, which the image makes.
CREATE DATABASE identity;
