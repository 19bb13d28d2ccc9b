"""SteadyEdit: consistent video editing on the host's own models. Importing this costs next to nothing."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI calls this once at its start; the libraries that a node needs load when it runs."""
    from .nodes import extension

    return extension()
