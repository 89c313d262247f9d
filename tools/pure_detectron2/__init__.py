"""How the pure-Python wheel of Detectron2 0.5 is made: source, patches, packing; standard library only."""
