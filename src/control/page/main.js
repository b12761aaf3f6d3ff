// Starts the page, and leaves a handle for the console and for tests.

import { Ui } from "./ui.js";

window.stentor = new Ui();
