// The page's own part: forms and what is shown. Ordering and watching are docs/app.md's functions, served as batch.js.
import { orderPhotos, watchBatch } from "./batch.js";

const { supabaseUrl, publishableKey, ordersUrl, email, password } = await (await fetch("settings.json")).json();
const supabase = globalThis.supabase.createClient(supabaseUrl, publishableKey);
const find = (id) => document.getElementById(id);
let batchId, userId;

find("email").value = email;
find("password").value = password;

function when(form, act) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    find("problem").textContent = "";
    button.disabled = true;
    try {
      await act();
    } catch (error) {
      find("problem").textContent = error.message;
    }
    button.disabled = false;
  });
}

function good({ data, error }) {
  if (error) throw new Error(error.message);
  return data;
}

when(document.querySelector("#sign-in form"), async () => {
  const { user } = good(await supabase.auth.signInWithPassword({ email: find("email").value, password: find("password").value }));
  userId = user.id;
  find("sign-in").hidden = true;
  find("order").hidden = false;
  find("photo").focus();
});

when(document.querySelector("#order form"), async () => {
  const [file] = find("photo").files;
  const path = `${userId}/${crypto.randomUUID()}.${file.name.split(".").pop()}`;
  good(await supabase.storage.from("training-photos").upload(path, await file.arrayBuffer(), { contentType: file.type }));
  const photo = `training-photos/${path}`;
  const order = {
    basePrompt: find("prompt").value,
    aspectRatio: find("ratio").value,
    numImagesPerExample: 4,
    trainingImageUrls: [photo],
    exampleImages: [{ url: photo }],
  };
  batchId = await orderPhotos(supabase, ordersUrl, order, crypto.randomUUID());
  find("photos").replaceChildren();
  find("batch").hidden = false;
  watchBatch(supabase, batchId, show);
  await fetch("kick", { method: "POST" }); // as the database does where the kick is installed
});

find("cancel").addEventListener("click", async () => good(await supabase.rpc("cancel_generation_batch", { p_batch_id: batchId })));

// How much is made, and beside it, in red, how much never will be.
function draw(made, failed, total) {
  const [first, second] = ["made", "failed"].map((kind) => find("progress").querySelector(`.${kind}`));
  first.setAttribute("width", (100 * made) / total);
  second.setAttribute("x", (100 * made) / total);
  second.setAttribute("width", (100 * failed) / total);
  find("progress").setAttribute("aria-label", `${made} of ${total} photos made, ${failed} failed`);
}

function show({ status, made, failed, total, live, problems, photos }) {
  const words = { generating: "Being made", completed: "All there", partial: "Some could not be made", failed: "None could be made", cancelled: "Cancelled" };
  find("state").textContent = `${words[status]}: ${photos.length} of ${total} photos.`;
  find("state").dataset.status = status;
  draw(made, failed, total);
  find("how").textContent = status !== "generating" ? "" : live ? "Live: told by Realtime." : "Asking every three seconds: there is no Realtime here.";
  find("cancel").hidden = status !== "generating";
  find("problem").textContent = problems.join(" ");
  for (const address of photos.slice(find("photos").children.length)) {
    const image = Object.assign(document.createElement("img"), { src: address, alt: `Photo ${find("photos").children.length + 1}` });
    const item = document.createElement("li");
    item.append(image);
    find("photos").append(item);
  }
}
