"""The page of `vlae-fast explore`: the same pixels as Python, and nothing in it but what belongs there."""

import json
import math
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from test_codec import USABLE, images_of, model_of

from vlae_fast import VLAE, explore, native, noise
from vlae_fast.cli import main
from vlae_fast.codec.exact import Exact

NODE = shutil.which("node")
with_node = pytest.mark.skipif(not NODE, reason="node wanted")
CODED = [fields for fields in USABLE if fields.get("conditioning", "latent") == "latent"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The page of the shipped model, as the command writes it."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    assert main(["explore", "static-mnist", "--out", str(path), "--quiet"]) == 0
    return path


def asked(page, *requests):
    """What the page's worker answers, outside a browser."""
    worker = Path(__file__).with_name("worker.mjs")
    result = subprocess.run([NODE, worker, page], input=json.dumps(requests), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    assert not [answer["error"] for answer in answers if "error" in answer]
    return answers


def check_worker(page, model):
    """Every answer of a page's worker against a model of rounded weights."""
    c, seed = model.config, 2**63 + 5
    shape = (-1, 1, c.height, c.width)
    with native.plain_arithmetic(), torch.no_grad():
        drawn, cold = model.sample(19, seed=seed, first=3), model.sample(2, seed=1, temperature=0.5)
        z = torch.randn(3, c.latent_size)
        decoded = torch.cat(
            [model.decode(code[None], seed=9, first=first) for first, code in zip((4, 2, 4), z, strict=True)]
        )
        copies = drawn[:1].expand(4, -1, -1, -1).contiguous()
        again = model.reconstruct(copies, seed=7)
        exact = Exact(model)
        with exact.arithmetic():
            listed, _ = exact.listed(np.array([54321]))
    with native.use_isa("baseline"), torch.no_grad():
        reconstruction, kl = model.sampled_bounds(drawn[:1], 8, seed=3)
        given = drawn[0].to(torch.int8).repeat(3, 1, 1)
        given[:, c.height // 2 :] = -1
        completed = model.inpaint(given, rounds=20, seed=5)

    x = drawn[0].flatten().tolist()
    textures = [["9", 4], ["9", 2], ["9", 4]]
    chain = {"ask": "complete", "given": given[0].flatten().tolist(), "n": 3, "seed": "5"}
    answers = asked(
        page,
        {"ask": "sample", "seed": str(seed), "first": 3, "n": 19, "temperature": 1},
        {"ask": "sample", "seed": "1", "first": 0, "n": 2, "temperature": 0.5},
        {"ask": "decode", "z": z.flatten().tolist(), "textures": textures, "temperature": 1},
        {"ask": "reconstruct", "x": x, "n": 4, "seed": "7"},
        {"ask": "listed", "number": 54321},
        {"ask": "bits", "x": x, "n": 8, "seed": "3"},
        chain | {"rounds": 11, "begin": True},
        chain | {"rounds": 30, "begin": False},
    )
    for answer, images in zip(answers, (drawn, cold, decoded, again), strict=False):
        assert torch.equal(torch.tensor(answer["images"]).view(shape), images.int())
    assert answers[4]["z"] == listed.flatten().tolist()
    bits = answers[5]
    assert bits["texture"] == pytest.approx(-reconstruction.mean().item() / math.log(2), abs=1e-3)
    assert bits["code"] == pytest.approx(kl.mean().item() / math.log(2), abs=1e-3)
    assert sum(bits["map"]) == pytest.approx(bits["texture"], abs=1e-3)
    # The chain accepts by a sum that torch and JavaScript round differently: equal but for ties.
    assert torch.equal(torch.tensor(answers[7]["images"]).view(shape), completed.int())


@with_node
def test_the_shipped_page_draws_what_python_draws(shipped):
    check_worker(shipped, VLAE.from_pretrained("static-mnist"))


@with_node
@pytest.mark.parametrize("fields", CODED, ids=str)
def test_the_page_of_any_variant_draws_what_python_draws(fields, tmp_path):
    model = model_of(**fields)
    (tmp_path / "page.html").write_bytes(explore.page(model))
    check_worker(tmp_path / "page.html", explore.rounded(model))


@with_node
def test_the_likeliest_of_the_listed_codes(shipped):
    model = VLAE.from_pretrained("static-mnist")
    images, exact = model.sample(3, seed=4), Exact(model)
    with exact.arithmetic():
        z, eps = exact.listed(np.arange(256))
        mean, std = exact.moments(images)
    prior, posterior = -0.5 * eps.astype(float) ** 2, -0.5 * ((z - mean[:, None]) / std[:, None]) ** 2.0
    wanted = (posterior - prior).sum(-1).argmax(-1)
    answers = asked(shipped, *({"ask": "number", "x": x.flatten().tolist()} for x in images))
    assert [(answer["number"], answer["of"]) for answer in answers] == [(n, 256) for n in wanted]


def test_the_page_holds_all_and_asks_for_nothing(shipped):
    text = shipped.read_text()
    assert shipped.stat().st_size < 8_000_000
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?:""", re.sub(r'id="(module|weights)">.*?<', "", text))
    assert "default-src 'none'" in text
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_texts_of_a_config_are_escaped(tmp_path):
    evil = "</script><script>alert(1)</script><!-- {{weights}} & \u2028"
    model = model_of()
    folder = tmp_path / "<b>&amp;"
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"data": evil}))
    assert main(["explore", str(folder), "--out", str(tmp_path / "page.html"), "--quiet"]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "<title>What the code keeps: &lt;b&gt;&amp;amp;</title>" in text
    assert len(re.findall("<script", text)) == 5
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])
    assert facts["trainedOn"] == evil
    assert facts["name"] == "<b>&amp;"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(images=slice(1)), ValueError, "images: at least 2 wanted, for the axes .* differ, got 1"),
        (dict(images=slice(0)), ValueError, "images: at least 2 wanted, .* got 0"),
        (dict(images=[1]), TypeError, "images: a tensor wanted, got list"),
        (dict(name=None), TypeError, "name: str wanted, got NoneType"),
        (dict(name="\udcff"), ValueError, r"name: a text without lone surrogates wanted, got '\\udcff'"),
        (dict(trained_on=3), TypeError, "trained_on: str wanted, got int"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_computed(options, error, message, monkeypatch):
    model = model_of()
    if isinstance(options.get("images"), slice):
        options = {"images": images_of(model, 3)[options["images"]]}
    for name in ("rounded", "_axes"):
        monkeypatch.setattr(explore, name, lambda *arguments: pytest.fail("the work began"))
    with pytest.raises(error, match=f"^{message}$"):
        explore.page(model, **options)


def test_axes_of_two_images():
    model = model_of()
    assert b"</html>" in explore.page(model, images=images_of(model, 2))


def test_what_a_page_cannot_show_is_refused_before_anything_is_written(tmp_path, capsys):
    def refused(model, words, out="page.html"):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(model, VLAE):
            model.save_pretrained(folder)
        else:
            folder.mkdir()
            for name, content in model.items():
                (folder / name).write_bytes(content)
        before = sorted(tmp_path.iterdir())
        assert main(["explore", str(folder), "--out", str(tmp_path / out)]) == 2
        assert words in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before

    for fields, words in (
        ({"conditioning": "none"}, "a latent code"),
        ({"decoder": "factorized"}, "decoder"),
        ({"posterior": "iaf"}, "posterior"),
        ({"flow_scale": True}, "flow_scale"),
        ({"width": 300}, "256 pixels"),
        ({"latent_size": 4096, "flow_hidden": 2048}, "64 MiB"),
    ):
        refused(model_of(**fields), words)
    huge = model_of()
    with torch.no_grad():
        huge.decoder.dense1.g[0] = 1e5
    refused(huge, "decoder.dense1.g: a weight beyond what half precision holds")
    refused(model_of(), "ends in .html", out="page.txt")
    refused({}, "config.json")
    refused({"config.json": b"{"}, "config.json")
    refused({"config.json": b'{"model": {}}', "model.safetensors": b"\xff" * 64}, "model.safetensors")
    refused({"config.json": b'{"model": {"latent_size": 1e9}}'}, "latent_size")


INK = """(() => {
  const copy = new OffscreenCanvas(W, H).getContext("2d", { willReadFrequently: true });
  copy.drawImage($("picture"), 0, 0);
  const { data } = copy.getImageData(0, 0, W, H);
  return Array.from({ length: PIXELS }, (_, i) => Number(data[4 * i] === colors.ink[0]));
})()"""
READY = "document.getElementById('status')?.textContent === ''"


@pytest.fixture
def opened(shipped, tmp_path):
    """Opens the page of an address in a browser of its own."""

    @contextmanager
    def opened(address="", **options):
        with Browser(tmp_path / f"profile{len(list(tmp_path.iterdir()))}", **options) as browser:
            browser.open(shipped.as_uri() + address)
            browser.until(READY)
            yield browser
            assert browser.complaints == []
            assert {url.partition(":")[0] for url in browser.requests} <= {"file", "blob"}

    return opened


def shows(browser, images):
    """Are these the pixels of the picture, once all is done?"""
    browser.run("refresh()")
    return browser.run(INK) == images.flatten().int().tolist()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="chromium wanted")
def test_a_browser_plays_with_the_page(opened, shipped):
    """From a file: clicks, slides, draws, copies and pastes; the pixels are Python's, and nothing leaves the page."""
    model = VLAE.from_pretrained("static-mnist")

    def of_page(seed, first):
        z = torch.tensor(list(browser.run("code()").values()))[None]
        with native.plain_arithmetic():
            return model.decode(z, seed=seed, first=first)

    with native.plain_arithmetic():
        samples = model.sample(48, seed=0)
    start = time.perf_counter()
    with opened() as browser:
        print(f"\nthe page is there {time.perf_counter() - start:.2f} s after the browser was called")
        number = browser.run("state.source.sample")
        assert shows(browser, samples[number])
        browser.run("document.querySelectorAll('#wall button')[10].click()")
        assert shows(browser, samples[10])

        browser.run("axes[1].slider.value = 1.5; axes[1].slider.dispatchEvent(new Event('input'))")
        assert shows(browser, of_page(0, 10))
        assert not torch.equal(of_page(0, 10), samples[10:11])
        browser.press("r", "r")
        assert shows(browser, of_page(1, 10))
        moved, address = browser.run(INK), browser.run("location.hash")

        # A stroke of the mouse, encoded and decompressed.
        browser.run("$('clear').click(); $('picture').scrollIntoView()")
        browser.drag(*stroke(browser))
        browser.run("refresh()")
        drawn = torch.tensor(browser.run(INK)).view(1, 1, 28, 28)
        assert 20 < drawn.sum() < 120
        with native.plain_arithmetic(), torch.no_grad():
            eps, _ = noise.normals_and_uniforms(1, noise.RECONSTRUCTION, 0, 1, 64)
            posterior = model.encode(drawn.float()).base_dist
            assert browser.run("code()") == as_object(posterior.loc + posterior.scale * eps)
        browser.run("document.querySelectorAll('#textures button')[3].click()")
        assert shows(browser, of_page(3, 0))

        # Its code, copied and pasted.
        browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite"], session=None)
        browser.run("$('copy').click()")
        browser.until("$('string-note').textContent.startsWith('Copied')")
        text = browser.run("navigator.clipboard.readText()")
        listed = browser.run(f"numberOf('{text}')")
        browser.run("document.querySelectorAll('#wall button')[0].click()")
        browser.run(f"$('string').value = '{text.lower()} '; $('paste').requestSubmit()")
        browser.until(f"state.source.code === '{text}'")
        exact = Exact(model)
        with exact.arithmetic():
            z, _ = exact.listed(np.array([listed]))
            assert shows(browser, model.decode(torch.from_numpy(z), seed=0))
        wrong = text[:-1] + ("0" if text[-1] != "0" else "1")
        browser.run(f"$('string').value = '{wrong}'; $('paste').requestSubmit()")
        browser.until("$('string-note').textContent.startsWith('A letter is wrong')")

        # What is forgotten is filled in, the rest stays.
        browser.run("document.querySelectorAll('#wall button')[4].click()")
        assert shows(browser, samples[4])
        browser.run("$('forget').click()")
        browser.until("completed !== null")
        completions = torch.tensor(list(browser.run("completed").values())).view(4, 28, 28)
        assert (completions[:, :14] == samples[4, 0, :14].int()).all()

        # By keyboard alone.
        browser.run("document.querySelectorAll('#wall button')[4].click()")
        browser.run("document.querySelectorAll('#wall button')[4].focus()")
        browser.press("ArrowRight")
        browser.until("state.source.sample === 5")
        assert shows(browser, samples[5])
        browser.run("$('picture').focus()")
        browser.press("ArrowUp")
        browser.press(" ", " ")
        changed = samples[5, 0].clone()
        changed[13, 14] = 1 - changed[13, 14]
        assert shows(browser, changed)

        # Another address in the same window.
        browser.run("location.hash = '#seed=0&sample=7&texture=12&move=0+-2.5'")
        browser.until("state.source.sample === 7 && state.moved[1] === -2.5")
        assert shows(browser, of_page(12, 7))
        assert browser.run("document.querySelector('#wall [aria-selected=true]').ariaLabel") == "Sample 7"

        each = browser.run("""(async () => {
          const start = performance.now();
          for (let i = 0; i < 50; ++i) { state.drawing = null; state.texture = String(i); await refreshPicture(); }
          return (performance.now() - start) / 50;
        })()""")
        print(f"a picture is redrawn in {each:.1f} ms")

    with opened("#code=00000&sample=2") as browser:
        assert browser.run("$('string-note').textContent").startswith("A letter is wrong")
        assert shows(browser, samples[2])

    with opened(address, width=390, height=800) as browser:
        browser.run("refresh()")
        assert browser.run(INK) == moved
        assert browser.run("document.documentElement.scrollWidth") == 390
        browser.run("$('clear').click(); $('picture').scrollIntoView()")
        browser.touch(*stroke(browser))
        browser.run("refresh()")
        assert browser.run(INK) == drawn.flatten().tolist()


def stroke(browser):
    """Places in the window that lie on a stroke over the picture."""
    left, top, side = browser.run("(({ x, y, width }) => [x, y, width])($('picture').getBoundingClientRect())")
    return [(left + side * (0.7 - 0.3 * t), top + side * (0.2 + 0.6 * t)) for t in np.linspace(0, 1, 9)]


def as_object(tensor):
    """An array as a browser hands it over."""
    return {str(i): value for i, value in enumerate(tensor.flatten().tolist())}
