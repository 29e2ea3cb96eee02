"""What versions are asked: golden requests, recorded ones, and a share of the real ones by nginx."""
