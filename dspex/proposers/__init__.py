"""Writers of new members of Text and Demos pools."""
