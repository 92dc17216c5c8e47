// Orders as docs/app.md does and prints each progress; what it needs comes in the environment.
import { createClient } from "@supabase/supabase-js";
import { orderPhotos, watchBatch } from "./app.js";

const { SUPABASE_URL, ANON_KEY, EMAIL, PASSWORD, ORDERS_URL, ORDER } = process.env;
const supabase = createClient(SUPABASE_URL, ANON_KEY);
const { error } = await supabase.auth.signInWithPassword({ email: EMAIL, password: PASSWORD });
if (error) throw error;
const batchId = await orderPhotos(supabase, ORDERS_URL, JSON.parse(ORDER), "order-1");
console.log(JSON.stringify({ batchId, again: await orderPhotos(supabase, ORDERS_URL, JSON.parse(ORDER), "order-1") }));
const refused = await orderPhotos(supabase, ORDERS_URL, {}, "order-2").catch((reason) => reason.message);
console.log(JSON.stringify({ refused }));
watchBatch(supabase, batchId, (progress) => {
  console.log(JSON.stringify(progress));
  if (progress.status !== "generating") setTimeout(() => process.exit(0), 100);
});
