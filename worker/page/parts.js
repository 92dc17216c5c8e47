// Each part of the page, brought up to date from what the worker answered.

function showHealth({ level, words: sentence }) {
  const health = find("health");
  health.dataset.level = level;
  const name = { good: "Good", busy: "Busy", attention: "Attention", trouble: "Trouble" }[level] ?? level;
  write(health.querySelector("strong"), name);
  write(health.querySelector(".words"), sentence);
  document.title = `${name} · Generation queue`;
}

// What wants attention though nothing has failed: a line each.
function showWarnings({ warnings }) {
  const create = () => make("p");
  keyed(find("warnings"), warnings, ({ about, subject }) => `${about} ${subject}`, create, (line, one) => write(line, one.words));
  find("warnings").hidden = !warnings.length;
}

function showNumbers(stats) {
  const hour = stats.windows.find((window) => window.name === "1h");
  const tiles = [
    ["Due", stats.due.jobs, `${counted(stats.due.images, "image")}, oldest ${seconds(stats.due.oldestSeconds)}`],
    ["Being made", stats.processing, stats.stale ? `${stats.stale} of dead workers` : counted(stats.runs.active, "run")],
    ["Waiting for a retry", stats.waiting, stats.nextAttemptInSeconds === null ? "none is planned" : `next in ${seconds(stats.nextAttemptInSeconds)}`],
    ["Put aside by the quota", stats.rateLimited, "no attempt spent"],
    ["Photos, last hour", hour.images.completed, `${hour.images.refused} refused`],
    ["Jobs, last hour", hour.jobs.completed, `${hour.jobs.failed} failed`],
    ["Order to end, last hour", seconds(hour.jobSeconds?.p50), `95 % within ${seconds(hour.jobSeconds?.p95)}`],
    ["Gemini, last hour", seconds(hour.imageMs?.p50 == null ? null : hour.imageMs.p50 / 1000), `95 % within ${seconds(hour.imageMs?.p95 == null ? null : hour.imageMs.p95 / 1000)}`],
  ];
  const create = ([name]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("span"), make("small")));
  keyed(find("numbers"), tiles, ([name]) => name, create, (tile, [, value, note]) => {
    write(tile.querySelector("span"), value);
    write(tile.querySelector("small"), note);
  });
}

// Bars over time. `parts` gives what lies on top of each other at a point, from the floor up: [kind, value]; `say` its words.
function chart(label, points, parts, say) {
  const most = Math.max(1e-9, ...points.map((point) => parts(point).reduce((sum, [, value]) => sum + value, 0)));
  const step = 100 / points.length;
  const bars = points.flatMap((point, place) => {
    const at = new Date(point.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    let floor = 39;
    return parts(point).filter(([, value]) => value).map(([kind, value]) => {
      const height = (38 * value) / most;
      floor -= height;
      const spot = { x: (place * step).toFixed(2), y: floor.toFixed(2), width: (step * 0.8).toFixed(2), height: height.toFixed(2) };
      return make("rect", { class: kind, ...spot }, make("title", {}, `${at}: ${say(point)}`));
    });
  });
  const picture = make("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": label }, ...bars,
    make("line", { x1: 0, y1: 39.5, x2: 100, y2: 39.5, "vector-effect": "non-scaling-stroke" }));
  return make("figure", {}, picture, make("figcaption", {}, label));
}

function throughput(title, points, good, bad, unit) {
  const [made, missed] = [good, bad].map((name) => points.reduce((sum, point) => sum + point[name], 0));
  const most = Math.max(...points.map((point) => point[good] + point[bad]));
  const label = made + missed ? `${title}: ${made} ${unit}, ${missed} not; at most ${most} at a time` : `${title}: none`;
  return chart(label, points, (point) => [["made", point[good]], ["failed", point[bad]]], (point) => `${point[good]} ${unit}, ${point[bad]} not`);
}

// The mean, and above it up to the slowest.
function latency(title, points, name, perSecond = 1) {
  const time = (value) => seconds(value === null ? null : value / perSecond);
  const told = points.filter((point) => point[name].max !== null);
  const slowest = Math.max(...told.map((point) => point[name].max));
  const label = told.length ? `${title}, mean and slowest: lately ${time(told.at(-1)[name].mean)}, at most ${time(slowest)}` : `${title}: nothing to measure`;
  return chart(label, points, (point) => [["mean", point[name].mean ?? 0], ["slowest", Math.max(0, (point[name].max ?? 0) - (point[name].mean ?? 0))]],
    (point) => `mean ${time(point[name].mean)}, slowest ${time(point[name].max)}`);
}

function showCharts({ series: { minutes, hours } }) {
  find("charts").replaceChildren(
    throughput("Photos by minute, last hour", minutes, "imagesCompleted", "imagesRefused", "made"),
    throughput("Photos by hour, last day", hours, "imagesCompleted", "imagesRefused", "made"),
    latency("Order to end by minute, last hour", minutes, "jobSeconds"),
    latency("Order to end by hour, last day", hours, "jobSeconds"),
    latency("Gemini by minute, last hour", minutes, "imageMs", 1000),
    throughput("Jobs by hour, last day", hours, "jobsCompleted", "jobsFailed", "completed"),
  );
}

const CLOSED_BY = { paused: "a pause", daily_cap: "a daily cap", rate_limited: "the quota" };

function showGate({ gate }) {
  const create = ({ model }) => make("div", {}, make("h3", {}, model), make("p"), make("p"));
  keyed(find("gate"), gate.gates, ({ model }) => model, create, (card, one) => {
    const [rate, state] = card.querySelectorAll("p");
    const learned = one.learnedFrom ? ` (learned: ${one.learnedFrom === "stated" ? "Gemini said so" : "lowered after a 429"}; allowed ${one.allowed})` : "";
    write(rate, `${Math.round(one.rate * 10) / 10} starts in ${seconds(one.windowSeconds)}${learned}`);
    const closed = [one.closedBy && `closed by ${CLOSED_BY[one.closedBy]}`, one.blockedForSeconds > 0 && `blocked for ${seconds(one.blockedForSeconds)}`];
    write(state, `${one.startedToday} today, ${closed.filter(Boolean).join(", ") || "open"}`);
  });
  const facts = [
    ["Started today", `${counted(gate.startedToday, "image")}, at most ${dollars(gate.spentToday)} of ${gate.dollarsPerDay === null ? "any" : dollars(gate.dollarsPerDay)}`],
    ["Images a day", gate.imagesPerDay === null ? "any" : gate.imagesPerDay],
    ["Runs at once", `${gate.runs} of ${gate.maxRuns}`],
    ["A job waits", `at most ${counted(Number(gate.maxAgeHours), "hour")} for a quota`],
  ];
  const caps = find("caps");
  if (!caps.children.length) facts.forEach(([name]) => caps.append(make("dt", {}, name), make("dd")));
  facts.forEach(([, value], place) => write(caps.children[2 * place + 1], value));
  find("pause").hidden = Boolean(gate.pausedAt);
  find("resume").hidden = !gate.pausedAt;
}

// A list without anything in it gives way to a sentence, the table around it too.
function empty(name, nothing) {
  find(`no-${name}`).hidden = !nothing;
  (find(name).closest(".scroll") ?? find(name)).hidden = nothing;
}

function showTroubles({ troubles, at }) {
  const why = { failed: "failed", stale: "its worker died", struggling: "waits for another try" };
  rows(find("troubles"), troubles, (job) => `${job.id} ${job.why}`, (job) => [
    job.id, `${why[job.why]}${job.code ? `: ${words(job.code)}` : ""}`, job.message ?? (job.crashes ? `${counted(job.crashes, "crash")} of its worker` : "–"),
    `${job.attempts} of ${job.maxAttempts}`, ago(job.at, at), make("code", {}, job.batchId.slice(0, 8)),
  ], ["number", "", "", "number"]);
  empty("troubles", !troubles.length);
  find("retry-failed").disabled = !troubles.some((job) => job.why === "failed");
  find("release-stale").disabled = !troubles.some((job) => job.why === "stale");
}

function showBatches({ batches: all, at }) {
  const batches = all.slice(0, 12);
  const create = (batch) => {
    const cancel = make("button", { type: "button", "aria-label": `Cancel batch ${batch.id}`, click: () => act(batch.id, "cancel") }, "Cancel");
    return make("li", {}, make("div", {}, make("code", {}, batch.id), make("div", { class: "quiet" })),
      make("div", { class: "progress" }, make("progress", { "aria-label": `Batch ${batch.id}` }), make("div", { class: "quiet" })), cancel);
  };
  keyed(find("batches"), batches, (batch) => batch.id, create, (item, batch) => {
    const [state, told] = item.querySelectorAll(".quiet");
    const bar = item.querySelector("progress");
    write(state, `${batch.status}, ordered ${ago(batch.createdAt, at)}`);
    bar.max = Math.max(1, batch.imagesTotal);
    bar.value = batch.imagesDone;
    const failed = batch.imagesFailed ? `, ${batch.imagesFailed} never` : "";
    write(told, `${batch.imagesDone} of ${counted(batch.imagesTotal, "image")}${failed}; ${batch.jobsDone + batch.jobsFailed} of ${counted(batch.jobsTotal, "job")} ended`);
    item.querySelector("button").hidden = batch.status !== "generating";
  });
  empty("batches", !batches.length);
}

function showPhotos({ photos, at }) {
  const create = (photo) => {
    const name = `Photo ${photo.imageIndex + 1} of job ${photo.jobId}`;
    const picture = make("img", { alt: name, loading: "lazy", width: photo.width, height: photo.height });
    picture.addEventListener("error", () => picture.removeAttribute("src"));
    const open = () => enlarge(picture, `${name}, ${photo.width} × ${photo.height}, ${photo.model}, ${seconds(photo.generationMs === null ? null : photo.generationMs / 1000)}`);
    return make("li", {}, make("button", { type: "button", click: open }, picture, make("span")));
  };
  keyed(find("photos"), photos, (photo) => photo.id, create, (item, photo) => {
    const picture = item.querySelector("img");
    // A new address each time, as none lasts; what is loaded is not loaded again.
    picture.dataset.url = photo.url ?? "";
    if (photo.url && !picture.getAttribute("src")) picture.src = photo.url;
    write(item.querySelector("span"), ago(photo.createdAt, at));
  });
  empty("photos", !photos.length);
}

function enlarge(picture, told) {
  const dialog = find("photo");
  const large = dialog.querySelector("img");
  large.src = picture.dataset.url;
  large.alt = picture.alt;
  write(dialog.querySelector("p"), told);
  dialog.showModal();
}

function showRuns({ runs: all, at }) {
  const runs = all.slice(0, 12);
  rows(find("runs"), runs, (run) => run.id, (run) => [
    ago(run.startedAt, at), run.state === "finished" ? `${words(run.stopReason)}${run.problem ? `: ${run.problem}` : ""}` : run.state,
    run.claimed ?? "–", run.completed ?? "–", run.failed ?? "–", run.state === "finished" ? (run.retried ?? 0) + (run.rateLimited ?? 0) : "–",
    run.images ?? "–", seconds(run.durationSeconds), run.workerId,
  ], ["", "", "number", "number", "number", "number", "number", "number", "id"]);
  empty("runs", !runs.length);
}
