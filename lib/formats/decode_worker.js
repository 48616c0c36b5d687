// Runs in a thread of its own: decodes a picture's bytes and sends the pixels back as a bitmap, which is quickly read. It
// is started from its text, so that a bundled program needs no file beside it.
self.onmessage = async ({ data: { id, bytes } }) => {
  try {
    const bitmap = await createImageBitmap(new Blob([bytes]));
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
    const blob = await canvas.convertToBlob({ type: "image/bmp" });
    const pixels = await blob.arrayBuffer();
    self.postMessage({ id, pixels }, [pixels]);
  } catch {
    self.postMessage({ id });
  }
};
