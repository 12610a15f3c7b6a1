"""Raw datasets as people have them on disk, read into one listing of people, views and pairs."""
