"""Your own person in your own pose, in Python.

    python examples/own_image.py MODEL PERSON.jpg PERSON.json POSE.json OUT.png

MODEL is a folder (RUN of ``xmdpt train``) or a hub id, PERSON.json the keypoints of PERSON.jpg.
With OpenPose's weights on the machine photographs are enough: leave source_keypoints out.
"""

import sys

from xmdpt_cli import XMDPTPipeline

model, person, keypoints, pose, out = sys.argv[1:]
pipe = XMDPTPipeline.from_pretrained(model)
images = pipe(source=person, source_keypoints=keypoints, pose=pose)
images[0].save(out)
print("\n".join([*pipe.last_notes, f"{out}: generated"]))
