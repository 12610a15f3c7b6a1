"""What people look at before they train: a contact sheet and a page."""
