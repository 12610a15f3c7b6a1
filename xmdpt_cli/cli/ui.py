"""``xmdpt ui``: a page to try a model on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmdpt_cli.cli.console import Talk
from xmdpt_cli.cli.help import panels
from xmdpt_cli.cli.options import AsJson, Device, EncodersDir, pick_device, quiet_libraries
from xmdpt_cli.cli.workspace import demo_model, models
from xmdpt_cli.cli.workspace_defaults import choose_for_sampling, preview_decoder
from xmdpt_cli.errors import ConfigError
from xmdpt_cli.toy import pretrained
from xmdpt_cli.utils import interrupts

if TYPE_CHECKING:
    from xmdpt_cli.ui.examples import Examples


@panels(
    {
        "Model": "model vae dino-source dino-pose encoders openpose",
        "Page": "host port allow-host browser",
    }
)
def ui(
    model: Annotated[
        str | None,
        typer.Option(
            help="Run, model folder, hub id, or toy for the toy model of the package [the newest "
            "in runs/ and models/, else the demo's, else toy]."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")
    ] = 7860,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Additional host name of the page, e.g. of a proxy; repeat for several.",
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = False,
    vae: Annotated[
        str | None,
        typer.Option(help="VAE or tiny decoder: hub id, folder, or tiny [the model's VAE]."),
    ] = None,
    dino_source: Annotated[
        str | None, typer.Option(help="Source DINOv2: hub id or folder [the model's].")
    ] = None,
    dino_pose: Annotated[
        str | None, typer.Option(help="Pose DINOv2: hub id or folder [the model's].")
    ] = None,
    encoders: EncodersDir = None,
    openpose: Annotated[
        str | None,
        typer.Option(help="OpenPose: hub id, folder or body file [lllyasviel/Annotators]."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Serve a web page to try a model.

    On the page, drop an image of a person, drag the joints of a skeleton, and generate. Ctrl-C
    stops the server.
    """
    quiet_libraries()
    from xmdpt_cli.encoders.places import check_encoders
    from xmdpt_cli.ui.hosts import LOOPBACK
    from xmdpt_cli.ui.serve import check_gradio, listen, serve

    talk = Talk(as_json)
    if encoders is not None:
        named = {"vae": vae, "dino_source": dino_source, "dino_pose": dino_pose}
        check_encoders(encoders, {name for name, given in named.items() if given is not None})
    check_gradio()  # and the port: both before a model is loaded
    model, vae = _choose(talk, model, vae)
    listener = listen(host, port)
    with listener:
        from xmdpt_cli.sampling.pipeline import XMDPTPipeline

        toy = Path(model) == pretrained.FOLDER
        name = pretrained.TITLE if toy else str(model)
        talk.say(f"loading {name}")
        pipe = XMDPTPipeline.from_pretrained(
            model,
            device=pick_device(device),
            vae=vae,
            dino_source=dino_source,
            dino_pose=dino_pose,
            openpose=openpose,
            encoders=encoders,
            preview=preview_decoder(str(model), vae),
        )
        if host not in LOOPBACK:
            talk.warn(
                f"anyone who can reach this machine at {host} can use the page, without a "
                "password; --host 127.0.0.1 restricts it to this machine"
            )

        def ready(url: str) -> None:
            note = " (TOY model)" if pipe.toy else ""
            talk.result(
                {"url": url, "model": str(model), "toy": pipe.toy},
                text=f"{url}{note}\nCtrl-C stops the server",
            )
            sys.stdout.flush()  # into a pipe, too: the program keeps running

        try:
            serve(
                pipe,
                name,
                listener,
                browser=browser,
                host=host,
                allow_hosts=allow_host or (),
                examples=_synthetic_examples() if toy else None,
                ready=ready,
            )
        except KeyboardInterrupt:  # the way to stop it
            interrupts.forget()
            talk.say("stopped")


def _choose(talk: Talk, model: str | None, vae: str | None) -> tuple[str, str | None]:
    """The model with its fine-tuned VAE: as named, from the workspace, the demo's, or the toy
    model of the package."""
    if model is None and not models():
        found = demo_model()
        if found is not None:
            talk.say(f"model: {found} (from xmdpt demo)")
            return str(found), vae
        if not pretrained.is_available():
            raise ConfigError(
                "no model in runs/ or models/, and no demo model in xmdpt-demo/",
                "make one: xmdpt demo (3 minutes); or name one: xmdpt ui --model RUN",
            )
        model = pretrained.NAME
    chosen = choose_for_sampling(talk, model, None, vae, Path(), own=True)
    return chosen.model, chosen.vae


def _synthetic_examples() -> Examples:
    """Synthetic people and poses for the toy model of the package, which has no dataset."""
    from PIL import Image

    from xmdpt_cli.toy.examples import HEIGHT, examples_of
    from xmdpt_cli.toy.people.views import render_view
    from xmdpt_cli.ui.examples import PEOPLE, Examples, Person

    found = Examples()
    for example in examples_of(PEOPLE, poses=1):
        source = render_view(example.source, height=HEIGHT)
        target = render_view(example.target, height=HEIGHT)
        sides = source.silhouette.shape[::-1]
        found.people.append(Person(Image.fromarray(source.image), source.keypoints / sides))
        found.poses.append(target.keypoints / sides)
    return found
