"""The capacity planner: which devices run a model, at which precision, how fast, at what cost.

One module a part of the answer: `model_account` counts a model's parameters and arithmetic,
`memory` says what it takes on a device, `roofline` how fast it can be, `calibration` what was
measured or published instead, `replicas` how many devices a load takes, `prices` what they cost,
`planner` puts them together. Every figure carries its basis (`figure`).
"""
