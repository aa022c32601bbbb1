// Other uploaders, and bare parallel PUTs without any uploader, on one page: ?with=uppy5|uppy6|lanes
const asked = new URLSearchParams(location.search);
const state = /** @type {HTMLElement} */ (document.getElementById('state'));
const field = /** @type {HTMLInputElement} */ (document.getElementById('file'));

/** @param {object} question @returns {Promise<any>} */
async function ask(question) {
  const answer = await fetch('/sign', { method: 'POST', body: JSON.stringify({ endpoint: asked.get('endpoint'), ...question }) });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

/** Set up as Uppy's manual says for signing on one's own server; otherwise with its defaults. @param {File} file */
async function uppy5(file) {
  const { Uppy, AwsS3 } = await import('/vendor/uppy5.mjs');
  const uppy = new Uppy({ autoProceed: false }).use(AwsS3, {
    createMultipartUpload: (/** @type {any} */ { name }) => ask({ act: 'create', key: name }),
    signPart: (/** @type {any} */ _, /** @type {any} */ { key, uploadId, partNumber }) => ask({ act: 'part', key, uploadId, partNumber }),
    completeMultipartUpload: (/** @type {any} */ _, /** @type {any} */ { key, uploadId, parts }) => ask({ act: 'complete', key, uploadId, parts }),
    getUploadParameters: (/** @type {any} */ { name }) => ask({ act: 'put', key: name }),
    abortMultipartUpload: () => {},
    listParts: () => [],
  });
  await run(uppy, file);
}

/** @param {File} file */
async function uppy6(file) {
  const { Uppy, AwsS3 } = await import('/vendor/uppy6.mjs');
  const signRequest = (/** @type {any} */ request) => ask({ act: 'request', ...request });
  await run(new Uppy({ autoProceed: false }).use(AwsS3, { signRequest }), file);
}

/** @param {any} uppy @param {File} file */
async function run(uppy, file) {
  uppy.addFile({ name: file.name, type: file.type, data: file });
  const { failed } = await uppy.upload();
  if (failed.length) throw new Error(failed[0].error);
}

/** Presigned URLs made beforehand, slices sent as they are, `?lanes=` at a time: what the browser itself can do. @param {File} file */
async function lanes(file) {
  const size = Number(asked.get('part'));
  const count = Math.ceil(file.size / size);
  const { uploadId, urls } = await ask({ act: 'plan', key: file.name, count });
  performance.clearResourceTimings();
  Object.assign(window, { chosenAt: performance.now() });
  let next = 0;
  const lane = async () => {
    while (next < count) {
      const number = next;
      next += 1;
      await put(urls[number], file.slice(number * size, (number + 1) * size));
    }
  };
  await Promise.all(Array.from({ length: Number(asked.get('lanes')) }, lane));
  await ask({ act: 'abort', key: file.name, uploadId });
}

/** @param {string} url @param {Blob} body @returns {Promise<void>} */
function put(url, body) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.onloadend = () => (request.status === 200 ? resolve() : reject(new Error(`storage said ${request.status}`)));
    request.open('PUT', url);
    request.send(body);
  });
}

/** @type {Record<string, (file: File) => Promise<void>>} */
const uploaders = { uppy5, uppy6, lanes };

field.addEventListener('change', async () => {
  const [file] = field.files ?? [];
  try {
    await uploaders[asked.get('with') ?? ''](file);
    state.textContent = 'done';
  } catch (error) {
    state.textContent = `failed: ${error}`;
  }
});
