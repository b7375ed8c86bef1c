"""What VoCo's speed is compared with, written by us from published descriptions; see each file."""
