"""The three APIs whose answers are judged, each as one wire: how it is read, and how its answers are put together."""
