// Open WebUI's page in Chromium: sign in, choose a model, type, wait for the answer. Its one argument is what
// program_open_webui.py says, as JSON; it prints {answer, origins}: what is shown, and whom the page asked for anything.
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.SEALIFT_NODE_MODULES, "x"))("playwright-core");
const { address, browser: executablePath, email, model, password, question } = JSON.parse(process.argv[2]);
const QUIET = ["background-networking", "component-update", "quic", "sync"].map((name) => `--disable-${name}`);

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--no-first-run", ...QUIET] });
const page = await browser.newPage();
page.setDefaultTimeout(60_000);
const origins = new Set();
page.on("request", (request) => origins.add(new URL(request.url()).origin));
await page.goto(`${address}/auth`);
await page.locator("#email").fill(email);
await page.locator("#password").fill(password);
await page.keyboard.press("Enter");
await page.getByText("Okay, Let's Go!").click(); // what is new, shown once
await page.goto(`${address}/?models=${model}`);
await page.locator("#chat-input").click();
await page.keyboard.type(question);
await page.keyboard.press("Enter");
await page.locator(".copy-response-button").waitFor(); // there once the answer is whole
const answer = await page.locator(".chat-assistant").innerText();
await browser.close();
console.log(JSON.stringify({ answer, origins: [...origins] }));
