"""Attribution methods by name: this package's, Captum's and pytorch-grad-cam's."""
