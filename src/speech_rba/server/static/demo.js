"use strict";

const MAX_SECONDS = 120; // of a recording made here; a chosen file may be longer
const ABOUT = {
  cascade: "Whisper, then the language model",
  base: "the student before alignment",
};
const element = (id) => document.getElementById(id);
const state = { recorder: null, exchange: null, busy: false };

function show(kind, text) {
  element("status").dataset.state = kind;
  element("status").textContent = text;
}

function build(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function setBusy(busy) {
  state.busy = busy;
  element("record").disabled = busy;
  element("file").disabled = busy;
}

async function toggleRecording() {
  if (state.recorder) return state.recorder.stop();
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    return show("error", "This browser cannot record here. Choose a file instead.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    const cause = denied ? "the browser does not allow it; allow the microphone for this page" : error.message;
    return show("error", `The microphone cannot be used: ${cause}.`);
  }
  const recorder = new MediaRecorder(stream);
  const blocks = [];
  recorder.ondataavailable = (event) => blocks.push(event.data);
  const stopMeter = meter(stream);
  const began = performance.now();
  const clock = setInterval(() => {
    const seconds = Math.floor((performance.now() - began) / 1000);
    element("record-label").textContent = `Stop and ask (${seconds} s)`;
    if (seconds >= MAX_SECONDS && recorder.state === "recording") recorder.stop();
  }, 250);
  recorder.onstop = () => {
    clearInterval(clock);
    stopMeter();
    stream.getTracks().forEach((track) => track.stop());
    state.recorder = null;
    element("record").setAttribute("aria-pressed", "false");
    element("record-label").textContent = "Record a question";
    ask(new Blob(blocks, { type: recorder.mimeType }));
  };
  state.recorder = recorder;
  recorder.start();
  element("record").setAttribute("aria-pressed", "true");
  element("record-label").textContent = "Stop and ask (0 s)";
  element("file").disabled = true;
  show("recording", "Recording. Speak now; press the button again to stop.");
}

function meter(stream) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  let running = true;
  const draw = () => {
    if (!running) return;
    analyser.getFloatTimeDomainData(samples);
    const rms = Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
    const percent = Math.min(100, Math.max(0, 100 + (100 / 60) * 20 * Math.log10(rms + 1e-6)));
    element("level").style.width = `${percent}%`;
    requestAnimationFrame(draw);
  };
  draw();
  return () => {
    running = false;
    context.close();
    element("level").style.width = "0";
  };
}

async function ask(blob) {
  setBusy(true);
  element("result").hidden = true;
  element("player").src = URL.createObjectURL(blob);
  element("player").hidden = false;
  show("thinking", "Thinking: the recording is transcribed and answered.");
  try {
    const type = blob.type || "application/octet-stream";
    const response = await fetch("/ask", { method: "POST", body: blob, headers: { "Content-Type": type } });
    if (!response.ok) throw new Error((await response.json()).error.message);
    await readLines(response.body, take);
    const num = element("answers").children.length;
    if (element("status").dataset.state === "thinking") show("done", `${num} answers. Rate them, or ask again.`);
  } catch (error) {
    const lost = error instanceof TypeError;
    show("error", lost ? "The program does not answer: is it still running?" : `Error: ${error.message}`);
  }
  setBusy(false);
}

async function readLines(body, onLine) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.forEach((line) => onLine(JSON.parse(line)));
  }
}

function take(line) {
  if (line.error) throw new Error(line.error);
  if (line.id) state.exchange = line.id;
  else if (line.system) addAnswer(line);
  else showTranscript(line);
}

function showTranscript({ transcript, words, no_speech }) {
  element("answers").replaceChildren();
  element("saved").textContent = "";
  element("result").hidden = false;
  if (no_speech || transcript === "") {
    const reason = no_speech ?? "no words";
    element("transcript").textContent = `(nothing: ${reason})`;
    element("legend").hidden = true;
    return show("nothing", `Nothing was recognized (${reason}). Please say it again.`);
  }
  const parts = words.length ? words.map(wordNode) : [transcript ?? "(this student writes no transcript)"];
  element("transcript").replaceChildren(...parts.flatMap((part, i) => (i ? [" ", part] : [part])));
  element("legend").hidden = !words.some((word) => word.uncertain);
}

function wordNode({ text, probability, uncertain }) {
  if (!uncertain) return text;
  const percent = `${Math.round(100 * probability)} %`;
  const note = build("span", { className: "only-read-aloud", textContent: ` (uncertain, ${percent})` });
  return build("mark", { title: `probability ${percent}` }, text, note);
}

function addAnswer({ system, answer, seconds, shared, transcript }) {
  const about = ABOUT[system] ?? `the student aligned by ${system}`;
  const notes = [`${seconds.toFixed(1)} s`];
  if (transcript !== undefined) notes.push(`from “${transcript}”`);
  if (shared) notes.push("same as base: its adapter is active where the transcript is uncertain");
  const item = build("li", {},
    build("h3", { textContent: system }),
    build("p", { className: "about", textContent: about }),
    build("p", { className: "answer", textContent: answer }),
    build("p", { className: "meta", textContent: notes.join("; ") }),
    thumbs(system, state.exchange));
  item.dataset.system = system;
  element("answers").append(item);
}

function thumbIcon() { // drawn, since not every machine has a font with thumbs
  const [icon, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M2 10h4v11H2z M8 21V10l4-8c2 0 3 1.5 2.5 3.5L13.5 9H19c1.7 0 2.8 1.4 2.4 3l-1.8 7c-.3 1.2-1.3 2-2.5 2z");
  icon.append(path);
  return icon;
}

function thumbs(system, exchange) {
  const row = build("div", { className: "thumbs" });
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", `Rate the answer of ${system}`);
  for (const [thumb, name] of [["up", "good"], ["down", "bad"]]) {
    const button = build("button", { type: "button" }, thumbIcon());
    button.dataset.thumb = thumb;
    button.setAttribute("aria-label", `The answer of ${system} is ${name}`);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => rate(row, button, system, exchange));
    row.append(button);
  }
  return row;
}

async function rate(row, button, system, exchange) {
  const taken = button.getAttribute("aria-pressed") === "true";
  const rating = { id: exchange, system, thumb: taken ? "none" : button.dataset.thumb, audio: element("keep").checked };
  try {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch("/feedback", { method: "POST", body: JSON.stringify(rating), headers });
    if (!response.ok) throw new Error((await response.json()).error.message);
    row.querySelectorAll("button").forEach((each) => each.setAttribute("aria-pressed", "false"));
    button.setAttribute("aria-pressed", String(!taken));
    element("saved").textContent = taken ? `The rating of ${system} is taken back.` : `The rating of ${system} is saved.`;
  } catch (error) {
    element("saved").textContent = `The rating is not saved: ${error.message}`;
  }
}

element("record").addEventListener("click", toggleRecording);
element("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file && !state.busy) ask(file);
  event.target.value = "";
});
