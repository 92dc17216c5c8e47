// Updates each part of the page from the worker's response.

function showHealth({ level, words: sentence }) {
  const health = find("health");
  health.dataset.level = level;
  const name = { good: "Good", busy: "Busy", attention: "Attention", trouble: "Trouble" }[level] ?? level;
  write(health.querySelector("strong"), name);
  write(health.querySelector(".words"), sentence);
  document.title = `${name} · Generation queue`;
}

// The database's warnings, one line each.
function showWarnings({ warnings }) {
  const create = () => make("p");
  keyed(find("warnings"), warnings, ({ about, subject }) => `${about} ${subject}`, create, (line, one) => write(line, one.words));
  find("warnings").hidden = !warnings.length;
}

const nextTry = (value) => (value === null ? "none" : `next in ${seconds(value)}`);

function showNumbers(stats) {
  const hour = stats.windows.find((window) => window.name === "1h");
  const tiles = [
    ["Due", stats.due.jobs, `${counted(stats.due.images, "image")}, oldest ${seconds(stats.due.oldestSeconds)}`],
    ["Being made", stats.processing, stats.stale ? `${stats.stale} whose worker died` : counted(stats.runs.active, "run")],
    ["Waiting for a retry", stats.waiting, nextTry(stats.nextTrySeconds.waiting)],
    ["Waiting for quota", stats.rateLimited, nextTry(stats.nextTrySeconds.rateLimited)],
    ["Photos, last hour", hour.images.completed, `${hour.images.refused} refused`],
    ["Jobs, last hour", hour.jobs.completed, `${hour.jobs.failed} failed`],
    ["Order to completion, last hour", seconds(hour.jobSeconds?.p50), `95 % within ${seconds(hour.jobSeconds?.p95)}`],
    ["Gemini, last hour", seconds(hour.imageMs?.p50 == null ? null : hour.imageMs.p50 / 1000), `95 % within ${seconds(hour.imageMs?.p95 == null ? null : hour.imageMs.p95 / 1000)}`],
  ];
  const create = ([name]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("span"), make("small")));
  keyed(find("numbers"), tiles, ([name]) => name, create, (tile, [, value, note]) => {
    write(tile.querySelector("span"), value);
    write(tile.querySelector("small"), note);
  });
}

// The top of an axis: the lowest round number that is not below the maximum and whose half is round too.
function roundTop(most) {
  const size = 10 ** Math.floor(Math.log10(Math.max(most, 2)));
  return (size > 1 ? [1, 2, 4, 6, 8, 10] : [2, 4, 6, 8, 10]).map((step) => step * size).find((top) => top >= most);
}

// A bar chart over time, with both axes. `parts` returns the stacked parts of a point from the bottom up, as [kind, value];
// `say` returns the text of a point.
function chart(title, told, unit, points, parts, say) {
  const most = Math.max(0, ...points.map((point) => parts(point).reduce((sum, [, value]) => sum + value, 0)));
  const top = roundTop(most);
  const step = 100 / points.length;
  const at = (point) => new Date(point.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const bars = points.flatMap((point, place) => {
    let floor = 40;
    return parts(point).filter(([, value]) => value).map(([kind, value]) => {
      const height = (40 * value) / top;
      floor -= height;
      const spot = { x: (place * step).toFixed(2), y: floor.toFixed(2), width: (step * 0.8).toFixed(2), height: height.toFixed(2) };
      return make("rect", { class: kind, ...spot }, make("title", {}, `${at(point)}: ${say(point)}`));
    });
  });
  const lines = [0, 20, 40].map((y) => make("line", { x1: 0, y1: y, x2: 100, y2: y, "vector-effect": "non-scaling-stroke" }));
  const picture = make("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${told}` }, ...lines, ...bars);
  const heights = [top, top / 2, 0].map((value) => make("span", {}, value.toLocaleString()));
  const times = [points[0], points[Math.floor(points.length / 2)], points.at(-1)].map((point, place) => make("span", {}, place === 2 ? "now" : at(point)));
  return make("figure", {}, make("figcaption", {}, make("strong", {}, title), ` ${told}`),
    make("div", { class: "unit" }, unit), make("div", { class: "plot" }, make("div", { class: "heights" }, ...heights), picture, make("div", { class: "times" }, ...times)));
}

function throughput(title, points, [good, done], [bad, not], unit) {
  const [made, missed] = [good, bad].map((name) => points.reduce((sum, point) => sum + point[name], 0));
  const told = made + missed ? `${made} ${done}, ${missed} ${not}` : "none";
  return chart(title, told, unit, points, (point) => [["made", point[good]], ["failed", point[bad]]], (point) => `${point[good]} ${done}, ${point[bad]} ${not}`);
}

// Two stacked bars per point: the mean, and the difference between the slowest and the mean.
function latency(title, points, name, perSecond = 1) {
  const time = (value) => seconds(value === null ? null : value / perSecond);
  const told = points.filter((point) => point[name].max !== null);
  const slowest = Math.max(...told.map((point) => point[name].max));
  const words = told.length ? `latest ${time(told.at(-1)[name].mean)}, slowest ${time(slowest)}` : "no data";
  const longest = told.length ? slowest / perSecond : 0;
  const [size, unit] = longest >= 7200 ? [3600, "hours"] : longest >= 120 ? [60, "minutes"] : [1, "seconds"];
  const scaled = (value) => (value ?? 0) / perSecond / size;
  return chart(title, words, `${unit}: mean, and slowest in a lighter shade`, points,
    (point) => [["mean", scaled(point[name].mean)], ["slowest", Math.max(0, scaled(point[name].max) - scaled(point[name].mean))]],
    (point) => `mean ${time(point[name].mean)}, slowest ${time(point[name].max)}`);
}

function showCharts({ series: { minutes, hours } }) {
  find("charts").replaceChildren(
    throughput("Photos, last hour", minutes, ["imagesCompleted", "made"], ["imagesRefused", "refused"], "photos per minute"),
    throughput("Photos, last day", hours, ["imagesCompleted", "made"], ["imagesRefused", "refused"], "photos per hour"),
    latency("Order to completion, last hour", minutes, "jobSeconds"),
    latency("Order to completion, last day", hours, "jobSeconds"),
    latency("Gemini, last hour", minutes, "imageMs", 1000),
    throughput("Jobs, last day", hours, ["jobsCompleted", "completed"], ["jobsFailed", "failed"], "jobs per hour"),
  );
}

// The limits of one signed-in user; `allowed` is how many images the daily limits allow at the present price.
function userLimits({ userImagesQueued: queued, userImagesPerDay: images, userDollarsPerDay: money, userImagesAllowed: allowed }) {
  const daily = [images !== null && counted(images, "image"), money !== null && dollars(money)].filter(Boolean).join(" or ");
  const waiting = queued === null ? "any number of images" : counted(queued, "image");
  return `${waiting} waiting; ${daily || "no limit"} per day${allowed === null ? "" : ` (now ${counted(Math.floor(allowed), "image")})`}`;
}

const CLOSED_BY = { paused: "a pause", daily_cap: "a daily cap", rate_limited: "the quota" };

function showGate({ gate }) {
  const create = ({ model }) => make("div", {}, make("h3", {}, model), make("p"), make("p"));
  keyed(find("gate"), gate.gates, ({ model }) => model, create, (card, one) => {
    const [rate, state] = card.querySelectorAll("p");
    const learned = one.learnedFrom ? ` (learned: ${one.learnedFrom === "stated" ? "stated by Gemini" : "lowered after a 429"}; allowed ${one.allowed})` : "";
    write(rate, `${Math.round(one.rate * 10) / 10} starts per ${seconds(one.windowSeconds)}${learned}`);
    const closed = [one.closedBy && `closed by ${CLOSED_BY[one.closedBy]}`, one.blockedForSeconds > 0 && `blocked for ${seconds(one.blockedForSeconds)}`];
    write(state, `${one.startedToday} today, ${closed.filter(Boolean).join(", ") || "open"}`);
  });
  const facts = [
    ["Started today", `${counted(gate.startedToday, "image")}, at most ${dollars(gate.spentToday)}${gate.dollarsPerDay === null ? "; no cap" : ` of ${dollars(gate.dollarsPerDay)}`}`],
    ["Images per day", gate.imagesPerDay === null ? "no cap" : gate.imagesPerDay],
    ["Each user", userLimits(gate)],
    ["Concurrent runs", `${gate.runs} of ${gate.maxRuns}`],
    ["Longest wait for quota", counted(Number(gate.maxAgeHours), "hour")],
  ];
  const caps = find("caps");
  if (!caps.children.length) facts.forEach(([name]) => caps.append(make("dt", {}, name), make("dd")));
  facts.forEach(([, value], place) => write(caps.children[2 * place + 1], value));
  find("pause").hidden = Boolean(gate.pausedAt);
  find("resume").hidden = !gate.pausedAt;
}

// Shows a sentence instead of an empty list or table.
function empty(name, nothing) {
  find(`no-${name}`).hidden = !nothing;
  (find(name).closest(".scroll") ?? find(name)).hidden = nothing;
}

const WHY = { failed: "Failed", stale: "Worker died", struggling: "Waiting for a retry" };

// Troubles grouped by reason and code, the largest group first; each with its batches.
function grouped(troubles, stats) {
  const groups = new Map();
  for (const job of troubles) {
    const key = `${job.why} ${job.code}`;
    if (!groups.has(key)) groups.set(key, { key, why: job.why, code: job.code, message: job.message, same: true, at: job.at, shown: 0, batches: new Map() });
    const group = groups.get(key);
    group.shown += 1;
    group.same &&= group.message === job.message;
    if (!group.batches.has(job.batchId)) group.batches.set(job.batchId, { id: job.batchId, group: key, jobs: [] });
    group.batches.get(job.batchId).jobs.push(job);
  }
  // The list has only the latest jobs; a code whose jobs are all older gets a group without batches.
  for (const code of Object.keys(stats.lastDay.failuresByCode)) {
    const key = `failed ${code === "unknown" ? null : code}`;
    if (!groups.has(key)) groups.set(key, { key, why: "failed", code, message: null, shown: 0, batches: new Map() });
  }
  for (const group of groups.values()) {
    const counts = { failed: stats.lastDay.failuresByCode[group.code ?? "unknown"], stale: stats.stale };
    group.jobs = Math.max(group.shown, counts[group.why] ?? 0);
  }
  return [...groups.values()].sort((one, other) => other.jobs - one.jobs);
}

function showTroubles({ troubles, stats, at }) {
  const create = () => make("li", {}, make("h3"), make("p", { class: "says" }), make("ul", { class: "plain" }), make("p", { class: "quiet" }));
  const groups = grouped(troubles, stats);
  keyed(find("troubles"), groups, (group) => group.key, create, (item, group) => {
    const [title, says, list, more] = item.children;
    item.dataset.why = group.why;
    write(title, `${WHY[group.why]}${group.code ? `: ${words(group.code)}` : ""} · ${counted(group.jobs, "job")}`);
    write(says, (group.same && group.message) || "");
    keyed(list, [...group.batches.values()].slice(0, 6), (batch) => batch.id, troubleBatch, (row, batch) => updateTroubleBatch(row, batch, at, group.same));
    const hidden = group.jobs - [...group.batches.values()].slice(0, 6).reduce((sum, batch) => sum + batch.jobs.length, 0);
    write(more, hidden > 0 ? `… and ${counted(hidden, "job")} more` : "");
  });
  empty("troubles", !groups.length);
  find("trouble-actions").hidden = !groups.length;
  find("retry-failed").disabled = !groups.some((group) => group.why === "failed");
  find("release-stale").disabled = !troubles.some((job) => job.why === "stale");
}

const retryButton = (id) => make("button", { type: "button", class: "retry", "aria-label": `Retry failed jobs of batch ${id}`, click: () => act(id, "retry-failed") }, "Retry");
const openButton = (id) => make("button", { type: "button", "aria-label": `Open batch ${id}`, click: () => openBatch(id) }, "Open");

function troubleBatch({ id }) {
  return make("li", {}, make("code", {}, id), make("div", { class: "quiet" }), make("div", { class: "bar" }, retryButton(id), openButton(id)));
}

function updateTroubleBatch(row, batch, at, told) {
  const [job] = batch.jobs;
  const tries = batch.jobs.length === 1 ? `, ${job.attempts} of ${counted(job.maxAttempts, "attempt")}${job.crashes ? `, ${counted(job.crashes, "crash")}` : ""}` : "";
  const names = batch.jobs.slice(0, 5).map((each) => each.id).join(", ") + (batch.jobs.length > 5 ? ", …" : "");
  write(row.children[1], `${batch.jobs.length === 1 ? "job" : `${batch.jobs.length} jobs:`} ${names}, ${ago(job.at, at)}${tries}${told ? "" : `: ${job.message}`}`);
  row.querySelector(".retry").hidden = job.why !== "failed";
}

// The progress bar of a batch: made, failed (red), and the rest.
function progress({ id, imagesTotal, imagesDone, imagesFailed }) {
  const most = Math.max(1, imagesTotal);
  const [made, failed] = [imagesDone, imagesFailed].map((count) => (100 * count) / most);
  const label = `Batch ${id}: ${imagesDone} of ${counted(imagesTotal, "image")} made, ${imagesFailed} failed`;
  return make("svg", { class: "progress", viewBox: "0 0 100 4", preserveAspectRatio: "none", role: "img", "aria-label": label },
    make("rect", { class: "rest", x: 0, y: 0, width: 100, height: 4 }), make("rect", { class: "made", x: 0, y: 0, width: made, height: 4 }),
    make("rect", { class: "failed", x: made, y: 0, width: failed, height: 4 }));
}

const imagesOf = (batch) => `${batch.imagesDone} of ${counted(batch.imagesTotal, "image")}${batch.imagesFailed ? `, ${batch.imagesFailed} failed` : ""}`;

function showBatches({ batches: all, at }) {
  const batches = all.slice(0, 12);
  const create = ({ id }) => {
    const cancel = make("button", { type: "button", class: "cancel", "aria-label": `Cancel batch ${id}`, click: () => act(id, "cancel") }, "Cancel");
    return make("li", {}, make("div", {}, make("code", {}, id), make("div", { class: "quiet" })),
      make("div", { class: "how-far" }, make("div"), make("div", { class: "quiet" })), make("div", { class: "bar" }, openButton(id), cancel));
  };
  keyed(find("batches"), batches, (batch) => batch.id, create, (item, batch) => {
    const [state, told] = item.querySelectorAll(".quiet");
    const [bar] = item.querySelector(".how-far").children;
    write(state, `${batch.status}, ordered ${ago(batch.createdAt, at)}`);
    item.dataset.status = batch.status;
    const drawn = progress(batch);
    if (!bar.firstChild?.isEqualNode(drawn)) bar.replaceChildren(drawn);
    write(told, `${imagesOf(batch)}; ${batch.jobsDone + batch.jobsFailed} of ${counted(batch.jobsTotal, "job")} ended`);
    item.querySelector(".cancel").hidden = batch.status !== "generating";
  });
  empty("batches", !batches.length);
}

// The dialog of one batch: its jobs with their states, and for each image the photo or the reason why there is none.
function showBatch({ batch, jobs, at }) {
  write(find("batch-title"), `Batch ${batch.id}`);
  write(find("batch-state"), `${batch.status}, ordered ${ago(batch.createdAt, at)}: ${imagesOf(batch)}`);
  find("batch-progress").replaceChildren(progress(batch));
  const create = () => make("li", { class: "job" }, make("div", {}, make("strong"), make("div", { class: "says" }), make("div", { class: "quiet" })), make("ul", { class: "gallery" }));
  keyed(find("batch-jobs"), jobs, (job) => job.id, create, (item, job) => {
    const [title, says, told] = item.firstChild.children;
    write(title, `Job ${job.id}: ${stateOf(job, at)}`);
    title.dataset.status = job.status;
    write(says, job.errorMessage ?? "");
    write(told, `${job.attempts} of ${counted(job.maxAttempts, "attempt")}${job.crashes ? `, its worker died ${counted(job.crashes, "time")}` : ""}; ordered ${ago(job.createdAt, at)}`);
    keyed(item.lastChild, job.images, (image) => image.index, (image) => imageOf(job, image), (place, image) => updateImage(place, image, job));
  });
  const more = batch.jobsTotal - jobs.length;
  write(find("batch-more"), more > 0 ? `… and ${counted(more, "job")} more: python -m worker show ${batch.id}` : "");
  find("batch-retry").hidden = !jobs.some((job) => job.status === "failed");
}

function stateOf(job, at) {
  if (job.status === "processing") return new Date(job.leaseExpiresAt) > new Date(at) ? "being made" : "its worker died";
  if (job.retryAt && job.status !== "failed") return `waiting for a retry ${ago(job.retryAt, at)}`;
  return job.status === "pending" ? "ready" : words(job.status);
}

// A photo. If it does not load, the next refresh tries again with a new URL.
const photograph = (alt, size) => make("img", { alt, loading: "lazy", ...size, error: ({ target }) => target.removeAttribute("src") });

// Signed URLs expire, so each refresh has new ones. A loaded photo keeps its `src`, so that it is not loaded again.
function address(picture, url) {
  picture.dataset.url = url ?? "";
  if (url && !picture.getAttribute("src")) picture.src = url;
}

function imageOf(job, { index }) {
  const name = `Photo ${index + 1} of job ${job.id}`;
  const picture = photograph(name);
  return make("li", {}, make("button", { type: "button", click: () => enlarge(picture, name) }, picture), make("span"));
}

function updateImage(place, image, job) {
  address(place.querySelector("img"), image.url);
  place.querySelector("button").hidden = !image.url;
  place.dataset.state = image.state;
  write(place.querySelector("span"), { made: image.url ? "" : "made", refused: `refused: ${words(image.code)}`, missing: ["failed", "cancelled"].includes(job.status) ? "not made" : "not made yet" }[image.state]);
}

function showPhotos({ photos, at }) {
  const create = (photo) => {
    const name = `Photo ${photo.imageIndex + 1} of job ${photo.jobId}`;
    const picture = photograph(name, { width: photo.width, height: photo.height });
    const open = () => enlarge(picture, `${name}, ${photo.width} × ${photo.height}, ${photo.model}, ${seconds(photo.generationMs === null ? null : photo.generationMs / 1000)}`);
    return make("li", {}, make("button", { type: "button", click: open }, picture, make("span")));
  };
  keyed(find("photos"), photos, (photo) => photo.id, create, (item, photo) => {
    address(item.querySelector("img"), photo.url);
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
